//! Asking an engine where its space is.
//!
//! Not here: finding it out (`usage`).

use super::Engine;
use crate::error::Stopped;
use crate::reply;
use crate::request::Request;
use crate::response::{Operation, Response};
use crate::space::Space;

impl Engine {
    /// Where the space on the disk is: what each segment is kept for, and what each log takes and
    /// keeps. Reads the indexes of all segments, one at a time, beside other work.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// let engine = oncelog::Options::new(dir.path()).segment_size(1 << 20).open()?;
    /// engine.create_log("orders").wait()?.append("one").wait()?;
    /// let space = engine.space().wait()?;
    /// println!("{space}");
    /// assert_eq!(space.shards.iter().flat_map(|shard| &shard.logs).count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn space(&self) -> Operation<'_, Result<Space, Stopped>> {
        Operation::new(async move {
            let mut answers = Vec::new();
            for shard in self.0.shard_ids() {
                let (reply, pending) = reply::pair();
                let request = Request::Space { reply };
                answers.push(Response::send(self.0.access(shard), request, pending));
            }
            let mut space = Space::default();
            for answer in answers {
                space.shards.push(answer.await?);
            }
            Ok(space)
        })
    }
}
