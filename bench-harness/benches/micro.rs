//! How long the small operations take, each by itself.
//!
//! ```sh
//! cargo bench -p bench-harness --bench micro                     # all, two minutes
//! cargo bench -p bench-harness --bench micro -- checksum         # some, by name
//! cargo bench -p bench-harness --bench micro -- --save-baseline before
//! cargo bench -p bench-harness --bench micro -- --baseline before
//! ```
//!
//! Times of operations between two threads hold the scheduler's choices: pin the process to
//! processors (`taskset -c 2,3`) to compare them.
//!
//! Not here: what does not depend on the machine's mood (`instructions`), and anything with a disk.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

mod operations;

fn micro(criterion: &mut Criterion) {
    for operation in operations::all() {
        // A title holds no slash: that would be a directory.
        let mut group = criterion.benchmark_group(operation.name.replace('/', "-"));
        group.sample_size(30);
        group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
        if let Some(bytes) = operation.bytes {
            group.throughput(Throughput::Bytes(bytes));
        }
        group.bench_function("time", |bencher| {
            let mut run = (operation.prepare)();
            bencher.iter_custom(|times| {
                let began = Instant::now();
                run(times);
                began.elapsed()
            });
        });
        group.finish();
    }
}

criterion_group!(benches, micro);
criterion_main!(benches);
