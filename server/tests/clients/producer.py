"""Appends transfers, each exactly once: producer.py PORT SEED LOG TOLD CUT.

Number n of the writer is one transfer, so the log must hold number 1, 2, 3, ... and nothing else. It
sends up to 16 at once. With the chance CUT it closes the connection before it has read all answers;
what was not answered it sends again, under the same numbers. TOLD is a file with the last number
that was answered.
"""

import os
import random
import sys

from wire import Refused, Wire, again

port, seed, log, told, cut = sys.argv[1:]
chance = random.Random(int(seed))
# The writer's epoch, the last number that is known to be durable, and how many repeats there were.
known = {"epoch": None, "last": 0}


def transfer(number):
    return f"{number} {number * 2654435761 % 2**32 // 128 % 97} {number * 7919 % 1000 - 300}"


def note():
    # Whole or not at all: it may be killed here too.
    with open(told + ".new", "w") as file:
        file.write(str(known["last"]))
    os.replace(told + ".new", told)


def life():
    wire = Wire(int(port))
    # Who goes on need not open the writer again: the epoch is still good.
    if known["epoch"] is None or chance.random() < 0.3:
        known["epoch"], last = wire.ask("WRITER", "OPEN", log, "bank")
        assert last >= known["last"], f"number {known['last']} was answered, {last} is the last"
        known["last"] = last
    while True:
        first = known["last"] + 1
        numbers = range(first, first + chance.randint(1, 16))
        for number in numbers:
            wire.send("APPEND", log, transfer(number), "WRITER", "bank", known["epoch"], number)
        if chance.random() < float(cut):
            for number in numbers[: chance.randint(0, len(numbers) - 1)]:
                check(number, wire.answer())
            note()
            return wire.close()
        for number in numbers:
            check(number, wire.answer())
        note()


def check(number, answer):
    sequence, repeated = answer
    assert sequence == number - 1, f"number {number} is at {sequence}, repeated: {repeated}"
    known["last"] = max(number, known["last"])


def main():
    try:
        again(life)
    except Refused as refused:
        # The server stops, or somebody has taken the writer over: then this one is over.
        sys.exit(f"producer: {refused}")


main()
