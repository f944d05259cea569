"""Sums up accounts, each transfer exactly once: processor.py PORT SEED SOURCE OUTPUT READER.

State: the balance of each account. Output: for each transfer its number, the account and the new
balance. Position, state and outputs are committed together, while the next records are read; who is
fenced ends, who loses the connection claims again and goes on from what was committed.
"""

import json
import random
import sys

from wire import Refused, Wire, again, fields

port, seed, source, output, reader = sys.argv[1:]
chance = random.Random(int(seed))


def add(balances, delta):
    for account, amount in delta.items():
        balances[account] = balances.get(account, 0) + amount


def life():
    reading, committing = Wire(int(port)), Wire(int(port))
    claim = fields(committing.ask("CLAIM", reader, "SOURCES", 1, source, "OWNS", 1, output))
    balances = json.loads(claim[b"snapshot"] or b"{}")
    for delta in claim[b"deltas"]:
        add(balances, json.loads(delta))
    position = fields(claim[b"positions"])[source.encode()]
    under_way, snapshot_due = 0, False
    while True:
        limit = chance.choice((1, 10, 100))
        records = reading.ask("READ", source, "FROM", position, "COUNT", limit, "BLOCK", 50)
        if not records:
            continue
        delta, outputs = {}, []
        for sequence, _, _, payload in records:
            assert sequence == position, f"{sequence} came where {position} was due"
            position = sequence + 1
            number, account, amount = payload.decode().split()
            add(delta, {account: int(amount)})
            balance = balances.get(account, 0) + delta[account]
            outputs += ["OUTPUT", output, f"{number} {account} {balance}"]
        add(balances, delta)
        state = ("DELTA", json.dumps(delta))
        if snapshot_due or chance.random() < 0.01:
            state = ("SNAPSHOT", json.dumps(balances))
        commit = ("COMMIT", reader, claim[b"epoch"], "POSITION", source, position)
        committing.send(*commit, *state, *outputs)
        under_way += 1
        # One may be under way while the next records are read.
        while under_way > chance.randint(0, 1):
            _, snapshot_due, places = committing.answer()
            under_way -= 1
            assert places == list(range(places[0], places[0] + len(places))), places


def main():
    try:
        again(life)
    except Refused as refused:
        sys.exit(f"processor: {refused}")


main()
