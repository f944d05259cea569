//! Tests of the operations on files.
//!
//! Not here: what runs in a whole engine (`tests/` of the workspace).

use super::*;
use crate::inbox::{Outlet, Wake, inbox};
use crate::io::OpId;
use crate::limits::SEGMENT_SIZE_MIN;
use crate::meta::tests::superblock;

#[test]
fn only_names_of_ours_are_taken_for_ours() {
    let dir = tempfile::tempdir().unwrap();
    let shard = ShardDir::open(dir.path(), ShardId(3), false).unwrap();
    for name in [
        "segment-00000000000000ff.log",
        "segment-00000000000000ff.index",
        "segment-00000000000000FE.log",
        "segment-0000000000000001.log.bak",
        "segment-1.log",
        "segment-+000000000000001.log",
        "spare-0000000a.log",
        "spare-a.log",
        "spare-0000000b.tmp",
        "segment-0000000000000001.tail.tmp",
        "notes.txt",
        "segment-0000000000000000.log",
        "spare-ffffffffffffffff.log",
    ] {
        fs::write(shard.path().join(name), "12345").unwrap();
    }
    let mut found = shard.list().unwrap();
    found.sort_by_key(|found| matches!(found, Found::Spare(..)));
    assert_eq!(found, [Found::Segment(SegmentId(255), 5), Found::Spare(SpareId(10), 5)]);
    assert_eq!(fs::read_dir(shard.path()).unwrap().count(), 13, "listing changes nothing");
    shard.remove_unfinished().unwrap();
    assert_eq!(fs::read_dir(shard.path()).unwrap().count(), 11, "only *.tmp are deleted");
}

struct Bench {
    dir: Arc<ShardDir>,
    files: Files,
    returns: Returns,
    outlet: Outlet<()>,
}

impl Bench {
    fn run(&mut self, kind: OpKind) -> Completion {
        self.files.run(&self.dir, &self.returns, Op { id: OpId(5), kind });
        let bell = self.outlet.bell();
        if self.outlet.park(Wake::Completions) {
            bell.hear().unwrap();
        }
        let done = self.outlet.take_completion().unwrap();
        assert_eq!(done.id, OpId(5));
        done
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<_> = entries.map(|entry| name(entry).into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn a_file_goes_from_spare_to_segment_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let meta = MetaFile::create(dir.path(), &superblock()).unwrap();
    let files = Files::start(meta).unwrap();
    let direct = crate::host::Host::probe(dir.path()).direct_io;
    let shard = Arc::new(ShardDir::open(dir.path(), ShardId(8), direct).unwrap());
    let (inbox, outlet) = inbox::<()>(1).unwrap();
    let returns = inbox.returns().clone();
    let mut bench = Bench { dir: shard, files, returns, outlet };

    let size = SEGMENT_SIZE_MIN + u64::from(BLOCK_SIZE);
    let (spare, segment) = (SpareId(1), SegmentId(0x1F));
    bench.run(OpKind::MakeSpare { spare, size, written: true }).result.unwrap();
    assert_eq!(bench.dir.list().unwrap(), [Found::Spare(spare, size)]);
    bench.run(OpKind::UseSpare { spare, segment }).result.unwrap();
    assert_eq!(bench.dir.list().unwrap(), [Found::Segment(segment, size)]);

    bench.run(OpKind::MakeSpare { spare, size, written: false }).result.unwrap();
    assert!(bench.dir.list().unwrap().contains(&Found::Spare(spare, size)));
    bench.run(OpKind::UseSpare { spare, segment }).result.unwrap_err();
    bench.run(OpKind::Recycle { segment, spare }).result.unwrap_err();
    assert_eq!(bench.dir.list().unwrap().len(), 2, "no file was replaced");
    bench.run(OpKind::RemoveSpare { spare }).result.unwrap();
    bench.run(OpKind::RemoveSpare { spare }).result.unwrap();

    let (side, bytes) = (Side::Index, Bytes::from_static(b"where it stands"));
    let missing = bench.run(OpKind::ReadSide { segment, side }).result.unwrap_err();
    assert!(missing.is_not_found());
    bench.run(OpKind::WriteSide { segment, side, bytes: bytes.clone() }).result.unwrap();
    let read = bench.run(OpKind::ReadSide { segment, side });
    assert_eq!((read.result.unwrap(), read.side.unwrap()), (15, bytes));
    bench.run(OpKind::Shorten { segment, len: 8192 }).result.unwrap();
    assert_eq!(bench.dir.list().unwrap(), [Found::Segment(segment, 8192)]);
    bench.run(OpKind::Recycle { segment, spare }).result.unwrap();
    assert_eq!(bench.names(), ["spare-00000001.log"]);
    bench.run(OpKind::UseSpare { spare, segment }).result.unwrap();
    bench.run(OpKind::RemoveSegment { segment }).result.unwrap();
    bench.run(OpKind::RemoveSegment { segment }).result.unwrap();
    assert!(bench.names().is_empty());

    bench.run(OpKind::Begin).result.unwrap();
    assert!(bench.files.superblock().has_begun(ShardId(8)));
    assert!(!bench.files.superblock().has_begun(ShardId(7)));
}

#[test]
fn the_table_keeps_what_is_in_use_and_closes_what_was_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let shard = Arc::new(ShardDir::open(dir.path(), ShardId(0), false).unwrap());
    let many = FILES_OPEN_MAX as u64 + 20;
    for n in 0..many {
        fs::write(shard.segment(SegmentId(n)), "").unwrap();
    }
    let mut table = FileTable::new(shard);
    let (busy, opened) = table.take(SegmentId(0)).unwrap();
    assert!(opened);
    for n in 1..many {
        let (slot, opened) = table.take(SegmentId(n)).unwrap();
        assert!(opened && slot != busy);
        assert!(!table.give_back(slot));
    }
    assert_eq!(table.take(SegmentId(0)).unwrap(), (busy, false));
    assert!(!table.take(SegmentId(many - 1)).unwrap().1, "the newest are still open");
    assert!(table.take(SegmentId(1)).unwrap().1, "the oldest was closed");
    assert!(table.take(SegmentId(many)).is_err());

    assert_eq!(table.forget(SegmentId(0)), None, "it is in use");
    assert!(!table.give_back(busy));
    assert!(table.give_back(busy), "closed with its last user");
    assert!(table.forget(SegmentId(many - 2)).is_some());
    assert_eq!(table.forget(SegmentId(many - 2)), None);
}
