//! What goes wrong on the simulated disk, how often, and how often it did.
//!
//! Not here: what each fault does (`disk`, `ops`, `damage`).

use std::ops::AddAssign;

/// A struct of counters with their names.
#[macro_export]
macro_rules! counters {
    ($(#[$head:meta])* $kind:ident { $($(#[$doc:meta])* $name:ident,)* }) => {
        $(#[$head])*
        #[derive(Clone, Copy, Debug, Default)]
        pub struct $kind {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl $kind {
            /// All counters with their names.
            #[must_use]
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }

        impl AddAssign for $kind {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

/// What goes wrong while a process runs. Numbers are the chance "one in so many", 0 for never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A write fails.
    pub write: u64,
    /// A write takes fewer bytes than it was given, and says so.
    pub short: u64,
    /// A sync fails.
    pub sync: u64,
    /// A read fails.
    pub read: u64,
    /// A read brings other bytes than those that stand there.
    pub misread: u64,
    /// An operation on files fails, or its sync of the directory does.
    pub files: u64,
    /// There is no room for another file.
    pub full: bool,
}

impl Faults {
    /// Whether a shard may stop.
    #[must_use]
    pub fn may_stop(&self) -> bool {
        self.write > 0 || self.short > 0 || self.sync > 0 || self.files > 0
    }
}

counters! {
    /// How often each fault was met.
    FaultCounters {
        /// Writes that a power cut lost.
        writes_lost,
        /// Writes that a power cut tore at sectors.
        writes_torn,
        /// Operations on files that a crash ended between two of their steps.
        file_ops_cut,
        /// Renames and removals that a power cut took back.
        names_lost,
        /// Power cuts that lost a change of a name but kept a later one.
        names_out_of_order,
        /// Side files that a power cut tore.
        sides_torn,
        /// Copies of the superblock that a power cut lost or tore.
        superblocks_torn,
        /// Writes that failed.
        eio_write,
        /// Writes that took fewer bytes.
        short_write,
        /// Syncs of files that failed.
        eio_sync,
        /// Reads that failed.
        eio_read,
        /// Reads of side files that failed.
        eio_read_side,
        /// Making a spare failed.
        eio_make_spare,
        /// Naming a segment failed.
        eio_use_spare,
        /// Making a segment a spare failed.
        eio_recycle,
        /// Removing a file failed.
        eio_remove,
        /// Cutting a file off failed.
        eio_shorten,
        /// Making holes in a file failed.
        eio_punch,
        /// The file system makes no holes.
        holes_refused,
        /// Writing the superblock failed.
        eio_begin,
        /// Writing a side file failed.
        eio_write_side,
        /// Of the failed operations on files, those whose sync of the directory failed.
        eio_directory_sync,
        /// Of the failed operations on files, those that said there was no room.
        enospc_elsewhere,
        /// Spares for which there was no room.
        enospc_make_spare,
        /// Side files for which there was no room.
        enospc_write_side,
        /// Acknowledged blocks with another bit.
        bit_flipped,
        /// Acknowledged blocks with a sector of zeros.
        sector_zeroed,
        /// Acknowledged blocks with a sector of noise.
        sector_noise,
        /// Acknowledged blocks that are zeros.
        block_lost,
        /// Acknowledged blocks that read as what stood there before.
        block_stale,
        /// Acknowledged blocks that read as those of another place.
        misdirected_read,
        /// Acknowledged blocks written to another acknowledged place.
        misdirected_write,
        /// Segment files that went away.
        file_lost,
        /// Segment files that were cut off.
        file_cut,
        /// Side files with other bytes.
        side_damaged,
        /// Copies of the superblock that were damaged.
        superblock_damaged,
        /// Reads that brought other bytes, once.
        misread,
        /// Reads that the end of a file cut short.
        reads_cut_by_end,
    }
}
