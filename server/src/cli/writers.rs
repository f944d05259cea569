//! Listing the idempotent writers of a log.
//!
//! Not here: writing as one of them (`append`, `import`).

use serde_json::{Map, Value, json};

use super::fail::Fail;
use super::logs::{flag, put_answer};
use super::out::Out;
use super::target::{Target, TargetArgs, odd};
use crate::client::Answer;

/// List the idempotent writers of a log
#[derive(Debug, clap::Args)]
#[command(after_help = "\
`oncelog forget NAME --log LOG` forgets one: its numbers begin anew.

Examples:
  oncelog writers shop/orders --dir data")]
pub(super) struct Writers {
    /// The log
    log: String,
    #[command(flatten)]
    target: TargetArgs,
}

pub(super) fn writers(args: Writers, out: &mut Out) -> Result<(), Fail> {
    let mut target = Target::open(&args.target)?;
    let writers: Vec<Value> = match &mut target {
        Target::Dir(engine) => {
            let writers = engine.open_log(&args.log).wait()?.list_writers().wait()?;
            let json = |writer: oncelog::WriterInfo| {
                json!({
                    "name": writer.name,
                    "epoch": writer.epoch.get(),
                    "increasing": writer.increasing,
                    "last": writer.last,
                })
            };
            writers.into_iter().map(json).collect()
        }
        Target::Server(client) => {
            let answer = client.call(&["WRITER", "LIST", &args.log])?;
            let rows = answer.array().ok_or_else(|| odd(&answer))?;
            rows.iter().map(writer).collect()
        }
    };
    target.close()?;
    if out.is_json() {
        return out.value(&writers.into());
    }
    for writer in &writers {
        let text = |key: &str| match &writer[key] {
            Value::String(text) => text.clone(),
            value => value.to_string(),
        };
        out.line(format_args!(
            "{}  last number {}, epoch {}",
            text("name"),
            text("last"),
            text("epoch")
        ))?;
    }
    Ok(())
}

/// A writer as a server tells of it: a map, or only its name.
fn writer(answer: &Answer) -> Value {
    let mut object = Map::new();
    match answer {
        Answer::Map(pairs) => {
            pairs.iter().for_each(|(key, value)| put_answer(&mut object, key, value));
            flag(&mut object, "increasing");
        }
        name => put_answer(&mut object, "name", name),
    }
    object.into()
}
