"""redis-py as a client: redis_py.py PORT FACT..., each fact is a function below.

Every fact holds in RESP2 and RESP3. A log's name begins with the protocol, so both have their own.
"""

import sys

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

PROTOCOLS = (2, 3)
BINARY = [b"\r\n", b"a\r\nb", b"\0", b"", bytes(range(256)), "ü€".encode(), b"$5\r\n*3\r\n" * 1000]


def client(port, protocol, **options):
    # As a plain APPEND that is sent again is another record, nothing is sent again by itself.
    retry = Retry(NoBackoff(), 0)
    return redis.Redis(port=port, protocol=protocol, retry=retry, socket_timeout=60, **options)


def fields(answer):
    """A map, which RESP2 has as an array of names and values."""
    if isinstance(answer, dict):
        return answer
    return dict(zip(answer[::2], answer[1::2]))


def refused(word, ask, *args):
    try:
        answer = ask(*args)
    except redis.ResponseError as error:
        # Words that Redis has too are classes here, and the word is not in the text any more.
        told = "" if word == "ERR" else word + " "
        assert str(error).startswith(told), f"{word} was expected: {error}"
        return str(error)
    raise AssertionError(f"{args} was answered by {answer}, not by {word}")


def essentials(port, protocol):
    r = client(port, protocol)
    assert r.ping() is True
    assert r.echo("hello") == b"hello"
    log = f"r{protocol}/orders"
    assert r.execute_command("CREATE", log, "COMPRESSION", "lz4") == 1
    assert r.execute_command("CREATE", log, "IFABSENT") == 0
    assert r.execute_command("APPEND", log, "one") == 0
    assert r.execute_command("APPEND", log, "two", "TXID", 7) == 1
    assert r.execute_command("MAPPEND", log, 2, "three", "four", "TXIDS", 8, 9) == 2
    records = r.execute_command("READ", log, "FROM", "earliest")
    assert [record[0] for record in records] == [0, 1, 2, 3], records
    assert [record[1] for record in records] == [0, 7, 8, 9], records
    assert [record[3] for record in records] == [b"one", b"two", b"three", b"four"], records
    assert r.execute_command("READ", log, "FROM", "txid", 8, "COUNT", 1)[0][3] == b"three"
    assert r.execute_command("READ", log, "FROM", "latest") == []
    assert r.execute_command("READ", log, "FROM", "latest", "BLOCK", 10) == []
    about = fields(r.execute_command("DESCRIBE", log))
    assert (about[b"next"], about[b"last_txid"], about[b"compression"]) == (4, 9, b"lz4"), about
    assert r.execute_command("LOGS", f"r{protocol}/") == [log.encode()]
    places = r.execute_command("BATCH", 2, log, "five", log, "six")
    assert places == [4, 5], places
    assert r.execute_command("TRUNCATE", log, "BEFORE", 2) == b"OK"
    assert r.info()["oncelog_version"]
    assert len(r.command()) == r.command_count()
    assert r.client_setname("worker") and r.client_getname() in ("worker", b"worker")
    assert r.client_id() > 0


def texts(port, protocol):
    """With decode_responses what comes is str."""
    r = client(port, protocol, decode_responses=True)
    log = f"t{protocol}"
    r.execute_command("CREATE", log)
    assert r.execute_command("APPEND", log, "größe €") == 0
    assert r.execute_command("READ", log, "FROM", 0)[0][3] == "größe €"
    assert fields(r.execute_command("DESCRIBE", log))["name"] == log


def bytes_stay_as_they_are(port, protocol):
    r = client(port, protocol)
    log = f"b{protocol}"
    r.execute_command("CREATE", log)
    for place, payload in enumerate(BINARY):
        assert r.execute_command("APPEND", log, payload) == place
    records = r.execute_command("READ", log, "FROM", "earliest")
    assert [record[3] for record in records] == BINARY
    r.execute_command("CREATE", log + ".many")
    r.execute_command("MAPPEND", log + ".many", len(BINARY), *BINARY)
    records = r.execute_command("READ", log + ".many", "FROM", "earliest")
    assert [record[3] for record in records] == BINARY


def pipelines(port, protocol, count=10_000):
    r = client(port, protocol)
    log = f"p{protocol}"
    r.execute_command("CREATE", log)
    # Not a transaction: that would be MULTI and EXEC of Redis.
    with r.pipeline(transaction=False) as pipe:
        for number in range(count):
            pipe.execute_command("APPEND", log, f"payload {number}")
        assert pipe.execute() == list(range(count))
    # Errors stand at their place, and nothing behind them is lost.
    with r.pipeline(transaction=False) as pipe:
        pipe.execute_command("APPEND", log, "before")
        pipe.execute_command("APPEND", "none", "nowhere")
        pipe.execute_command("APPEND", log, "behind")
        before, error, behind = pipe.execute(raise_on_error=False)
    assert (before, behind) == (count, count + 1), (before, behind)
    assert str(error).startswith("NOLOG "), error
    found, last = [], 0
    while page := r.execute_command("READ", log, "FROM", last, "COUNT", 3000):
        found += [record[3].decode() for record in page]
        last = page[-1][0] + 1
    assert found == [f"payload {number}" for number in range(count)] + ["before", "behind"]


def processors(port, protocol):
    """A claim on one connection, the commit on another: the epoch counts, not the connection."""
    one, other = client(port, protocol), client(port, protocol)
    assert one.client_id() != other.client_id()
    source, output, reader = (f"w{protocol}/{name}" for name in ("in", "out", "count"))
    for log in (source, output):
        one.execute_command("CREATE", log)
    one.execute_command("MAPPEND", source, 3, "a", "b", "a")
    claim = fields(one.execute_command("CLAIM", reader, "SOURCES", 1, source))
    epoch = claim[b"epoch"]
    assert fields(claim[b"positions"]) == {source.encode(): 0}, claim
    assert (claim[b"snapshot"], claim[b"deltas"], claim[b"commits"]) == (None, [], 0), claim
    commit = ("COMMIT", reader, epoch)
    answer = other.execute_command(
        *commit, "POSITION", source, 2, "DELTA", b"a1\0b1", "OUTPUT", output, "x", "OUTPUT", output, "y"
    )
    assert answer[0] == 1 and answer[2] == [0, 1], answer
    again = one.execute_command(*commit, "POSITION", source, 3, "DELTA", b"a2")
    assert again[0] == 2, again
    (about,) = one.execute_command("READERS", reader)
    assert fields(about)[b"lag"] == 0, about
    # Whoever claims it next goes on where it was, and the one of before is out.
    claim = fields(other.execute_command("CLAIM", reader))
    assert fields(claim[b"positions"]) == {source.encode(): 3}, claim
    assert claim[b"deltas"] == [b"a1\0b1", b"a2"], claim
    refused("FENCED", one.execute_command, *commit, "POSITION", source, 3, "DELTA", b"late")
    epoch = claim[b"epoch"]
    other.execute_command("COMMIT", reader, epoch, "SNAPSHOT", b"a2b1")
    claim = fields(one.execute_command("CLAIM", reader))
    assert (claim[b"snapshot"], claim[b"deltas"]) == (b"a2b1", []), claim


def writers(port, protocol):
    """What is sent again under its number is there once."""
    r = client(port, protocol)
    log = f"i{protocol}"
    r.execute_command("CREATE", log)
    epoch, last = r.execute_command("WRITER", "OPEN", log, "meter")
    assert last == 0
    send = ("APPEND", log, "42 kWh", "WRITER", "meter", epoch, 1)
    assert r.execute_command(*send) == [0, 0]
    assert r.execute_command(*send) == [0, 1]
    newer, last = r.execute_command("WRITER", "OPEN", log, "meter")
    assert last == 1 and newer > epoch
    refused("FENCED", r.execute_command, "APPEND", log, "x", "WRITER", "meter", epoch, 2)
    refused("ORDER", r.execute_command, "APPEND", log, "x", "WRITER", "meter", newer, 9)
    assert len(r.execute_command("READ", log, "FROM", 0)) == 1


def errors(port, protocol):
    """Programs look at the first word; redis-py has classes of its own for some."""
    r = client(port, protocol)
    ask, log = r.execute_command, f"e{protocol}"
    ask("CREATE", log, "RECORDMAX", 10)
    assert "unknown command" in refused("ERR", ask, "GET", "key")
    assert "APPEND log payload" in refused("ERR", ask, "APPEND", log)
    refused("NOLOG", ask, "APPEND", "none", "x")
    refused("NOLOG", ask, "READ", "none", "FROM", "earliest")
    refused("EXISTS", ask, "CREATE", log)
    refused("BADNAME", ask, "CREATE", "a b")
    refused("TOOLARGE", ask, "APPEND", log, "x" * 11)
    refused("NOREADER", ask, "CLAIM", log + "-reader")
    refused("NOWRITER", ask, "APPEND", log, "x", "WRITER", "none", 1, 1)
    ask("OWN", log)
    refused("OWNED", ask, "APPEND", log, "x")
    ask("SHARE", log)
    ask("MAPPEND", log, 2, "1", "2")
    ask("TRUNCATE", log, "BEFORE", 1)
    refused("TRUNCATED", ask, "READ", log, "FROM", 0)
    ask("SEAL", log)
    refused("SEALED", ask, "APPEND", log, "x")
    refused("END", ask, "READ", log, "FROM", 2, "BLOCK", 0)
    # A pipeline is a transaction unless told otherwise, and that is another thing here: BATCH.
    ask("CREATE", log + "-t")
    try:
        with r.pipeline() as pipe:
            pipe.execute_command("APPEND", log + "-t", "x").execute()
        raise AssertionError("a transaction of Redis went through")
    except redis.ResponseError as error:
        assert "no transactions of Redis" in str(error), error
    assert ask("READ", log + "-t", "FROM", "earliest") == [], "nothing of it is done"


def following(port, protocol):
    """Records come as pushes on a connection of their own."""
    r = client(port, protocol)
    log = f"f{protocol}"
    r.execute_command("CREATE", log)
    r.execute_command("APPEND", log, "old")
    stream = r.connection_pool.get_connection()

    def push():
        return stream.read_response(push_request=True) if protocol == 3 else stream.read_response()

    def payloads(count):
        found = []
        while len(found) < count:
            kind, name, records = push()
            assert (kind, name) == (b"records", log.encode())
            found += [record[3] for record in records]
        return found

    stream.send_command("FOLLOW", log, "FROM", "earliest")
    assert push() == [b"follow", log.encode()]
    assert payloads(1) == [b"old"]
    with r.pipeline(transaction=False) as pipe:
        for number in range(1000):
            pipe.execute_command("APPEND", log, str(number))
        pipe.execute()
    assert payloads(1000) == [str(number).encode() for number in range(1000)]
    stream.send_command("UNFOLLOW", log)
    assert push() == [b"unfollow", log.encode()]
    stream.send_command("PING")
    assert stream.read_response() in (b"PONG", "PONG")
    r.connection_pool.release(stream)


def login(port, protocol):
    """The server has a file of users: see the test."""
    nobody = client(port, protocol)
    try:
        nobody.ping()
        raise AssertionError("nobody may ping")
    except redis.AuthenticationError as error:
        assert "AUTH" in str(error), error
    for options in ({"username": "billing", "password": "wrong"}, {"username": "x", "password": "y"}):
        try:
            client(port, protocol, **options).ping()
            raise AssertionError("they are let in")
        except (redis.AuthenticationError, redis.ResponseError) as error:
            assert "WRONGPASS" in repr(error) or "password" in str(error), error
    r = client(port, protocol, username="billing", password="secret of billing")
    log = f"billing/l{protocol}"
    assert r.execute_command("CREATE", log) == 1
    assert r.execute_command("APPEND", log, "x") == 0
    try:
        r.execute_command("CREATE", "other")
        raise AssertionError("billing may make what is not theirs")
    except redis.exceptions.NoPermissionError as error:
        assert "billing" in str(error), error
    assert r.execute_command("LOGS") == sorted(r.execute_command("LOGS", "billing/"))
    url = f"redis://billing:secret%20of%20billing@127.0.0.1:{port}/0?protocol={protocol}"
    assert redis.Redis.from_url(url).execute_command("READ", log, "FROM", 0)[0][3] == b"x"


def main():
    port, facts = int(sys.argv[1]), sys.argv[2:]
    for fact in facts:
        for protocol in PROTOCOLS:
            globals()[fact](port, protocol)
            print(f"{fact} holds in RESP{protocol}")


main()
