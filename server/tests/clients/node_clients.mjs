// node-redis and ioredis as clients: node_clients.mjs PORT. The packages are beside $CLIENTS.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const load = createRequire(process.env.CLIENTS);
const port = Number(process.argv[2]);
const BINARY = Buffer.from([13, 10, 0, 255, 36, 53, 13, 10]);

/** What each library calls asking, so that the facts below are the same for both. */
async function nodeRedis(RESP) {
  const { createClient, RESP_TYPES } = load("redis");
  // Nothing is sent again by itself: a plain APPEND that is sent again is another record.
  const options = { RESP, socket: { port, reconnectStrategy: false }, disableOfflineQueue: true };
  const client = createClient(options);
  client.on("error", () => {});
  await client.connect();
  const bytes = client.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
  return {
    name: `node-redis, RESP${RESP}`,
    ask: (...args) => client.sendCommand(args.map(asArgument)),
    askBytes: (...args) => bytes.sendCommand(args.map(asArgument)),
    close: () => client.close(),
  };
}

async function ioredis() {
  const Redis = load("ioredis");
  // By default it sends again what was not answered when a connection ends.
  const options = { autoResendUnfulfilledCommands: false, retryStrategy: null, lazyConnect: true };
  const client = new Redis(port, { ...options, maxRetriesPerRequest: 0 });
  await client.connect();
  return {
    name: "ioredis",
    ask: (...args) => client.call(...args.map(asArgument)),
    askBytes: (...args) => client.callBuffer(...args.map(asArgument)),
    close: () => client.quit(),
  };
}

const asArgument = (arg) => (Buffer.isBuffer(arg) ? arg : String(arg));

/** A map, which RESP2 has as an array of names and values. */
function fields(answer) {
  if (!Array.isArray(answer)) return answer;
  const pairs = [];
  for (let at = 0; at < answer.length; at += 2) pairs.push([answer[at], answer[at + 1]]);
  return Object.fromEntries(pairs);
}

async function facts(client, prefix) {
  const { ask, askBytes } = client;
  const log = `${prefix}/orders`;
  assert.equal(await ask("CREATE", log), 1);
  assert.equal(await ask("APPEND", log, "one"), 0);
  assert.equal(await ask("MAPPEND", log, 2, "two", BINARY), 1);
  const records = await askBytes("READ", log, "FROM", "earliest");
  assert.deepEqual(records.map((record) => record[0]), [0, 1, 2]);
  assert.deepEqual(records[2][3], BINARY);
  assert.equal((await ask("READ", log, "FROM", 0, "COUNT", 1))[0][3], "one");
  assert.equal(fields(await ask("DESCRIBE", log)).next, 3);

  // Commands that are not awaited one by one are a pipeline, and stay in order.
  const count = 10_000;
  const many = Array.from({ length: count }, (_, at) => ask("APPEND", log, `record ${at}`));
  const places = await Promise.all(many);
  assert.deepEqual(places, Array.from({ length: count }, (_, at) => at + 3));
  const last = await ask("READ", log, "FROM", count + 2);
  assert.deepEqual(last.map((record) => record[3]), [`record ${count - 1}`]);

  const refused = async (word, ...args) =>
    assert.rejects(ask(...args), (error) => error.message.startsWith(word + " "));
  await refused("ERR", "GET", "key");
  await refused("NOLOG", "APPEND", "none", "x");
  await refused("EXISTS", "CREATE", log);

  const reader = `${prefix}/sum`;
  const claim = fields(await ask("CLAIM", reader, "SOURCES", 1, log));
  assert.deepEqual({ ...fields(claim.positions) }, { [log]: 0 });
  const commit = ["COMMIT", reader, claim.epoch, "POSITION", log, 3, "DELTA", "3"];
  assert.deepEqual((await ask(...commit, "OUTPUT", log, "out"))[2], [count + 3]);
  const next = fields(await ask("CLAIM", reader));
  assert.deepEqual({ ...fields(next.positions) }, { [log]: 3 });
  assert.deepEqual(next.deltas, ["3"]);
  await refused("FENCED", ...commit);

  const [epoch] = await ask("WRITER", "OPEN", log, "meter");
  const send = ["APPEND", log, "once", "WRITER", "meter", epoch, 1];
  assert.deepEqual(await ask(...send), [count + 4, 0]);
  assert.deepEqual(await ask(...send), [count + 4, 1]);
  console.log(`${client.name}: all holds`);
  await client.close();
}

await facts(await nodeRedis(2), "n2");
await facts(await nodeRedis(3), "n3");
await facts(await ioredis(), "io");
