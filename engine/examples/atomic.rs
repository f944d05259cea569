//! Records that stand together or not at all: docs/tutorials/atomic.md
//!
//! ```text
//! cargo run --release --example atomic
//! ```

use oncelog::{
    AppendError, Batch, Engine, From, Log, LogError, NewRecord, Options, ReadError, TxId,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let engine = Options::new(dir.path()).shards(2).segment_size(1 << 20).open()?;
    let orders = engine.create_log("shop/orders").wait()?;
    let stock = engine.create_log("shop/stock").wait()?;
    let news = engine.create_log("press/news").wait()?;

    // One log: the records stand next to each other.
    let three = orders.append_batch(["3 apples", "1 pear", "2 plums"]).wait()?;
    println!("one log: {} records from sequence {}", three.count, three.first);

    // Several logs of one group: all of them, or none.
    let appended = Batch::new()
        .append(&orders, "5 figs")
        .append(&stock, "figs -5")
        .append(&stock, "figs reordered")
        .commit()
        .wait()?;
    println!("two logs: orders got {} record, stock {}", appended[0].count, appended[1].count);

    let before = lengths(&engine)?;
    println!("\nwhat is refused:");
    let too_large = vec![0_u8; 200 << 10];
    refused(Batch::new().append(&orders, "1 whale").append(&stock, too_large))?;
    refused((0..100).fold(Batch::new(), |batch, _| batch.append(&orders, vec![0_u8; 2000])))?;
    refused(Batch::new().append(&orders, "1 paper").append(&news, "paper sold"))?;
    let seventh = NewRecord::new("a").with_txid(TxId::new(7));
    let sixth = NewRecord::new("b").with_txid(TxId::new(6));
    refused(Batch::new().append(&stock, "c").append(&orders, seventh).append(&orders, sixth))?;

    let after = lengths(&engine)?;
    assert_eq!(before, after, "what is refused leaves nothing behind");
    println!("\nlengths of the logs before and after: {before:?} {after:?}");

    // Refused or not: a batch is one answer, and the next one does not suffer.
    Batch::new().append(&orders, "1 more").append(&stock, "-1").commit().wait()?;
    assert_eq!(read(&orders)?.last().map(String::as_str), Some("1 more"));
    println!("orders: {}", read(&orders)?.join(", "));
    engine.close().wait()?;
    Ok(())
}

/// Commits what must be refused, and says why it was.
fn refused(batch: Batch) -> Result<(), AppendError> {
    match batch.commit().wait() {
        Ok(_) => panic!("it should have been refused"),
        Err(AppendError::Stopped(stopped)) => Err(stopped.into()),
        Err(error) => {
            println!("- {error}");
            Ok(())
        }
    }
}

/// How many records each log has.
fn lengths(engine: &Engine) -> Result<Vec<u64>, LogError> {
    let logs = engine.list_logs("").wait()?;
    Ok(logs.iter().map(|log| log.next.since(log.first)).collect())
}

fn read(log: &Log) -> Result<Vec<String>, ReadError> {
    let (mut reader, mut texts) = (log.reader(From::Earliest), Vec::new());
    while let Some(records) = reader.try_next().wait()? {
        texts.extend(records.map(|r| String::from_utf8_lossy(&r.payload).into_owned()));
    }
    Ok(texts)
}
