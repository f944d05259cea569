"""The least client, for programs that must run without any library: RESP2 over a socket."""

import random
import socket
import time


class Refused(Exception):
    """The server has said no: the first word says why."""

    def __init__(self, line):
        super().__init__(line)
        self.word = line.split(" ", 1)[0]


class Wire:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answers = self.socket.makefile("rb")

    def send(self, *args):
        parts = [arg if isinstance(arg, bytes) else str(arg).encode() for arg in args]
        request = b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        self.socket.sendall(b"*%d\r\n%s" % (len(parts), request))

    def answer(self):
        """One answer; errors inside of it, or it itself, are raised."""
        line = self.answers.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the server has gone")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise Refused(rest.decode())
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        if kind == b"*":
            return [self.answer() for _ in range(int(rest))]
        length = int(rest)
        if length < 0:
            return None
        whole = self.answers.read(length + 2)
        if len(whole) < length + 2:
            raise ConnectionError("the server has gone")
        return whole[:-2]

    def ask(self, *args):
        self.send(*args)
        return self.answer()

    def close(self):
        self.answers.close()
        self.socket.close()


def fields(answer):
    return dict(zip(answer[::2], answer[1::2]))


def again(life, *args):
    """Lives for ever: after every loss of the connection a new life begins."""
    while True:
        try:
            life(*args)
        except OSError:
            time.sleep(random.random() * 0.02)
