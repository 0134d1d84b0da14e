"""What a service has to publish, and what its library says: one JSON object a line in, one line of answer out."""
import contextlib
import json
import sys


def notifications():
    """Headers and body of each line on standard input."""
    for line in sys.stdin:
        notification = json.loads(line)
        yield notification["headers"], notification["body"]


@contextlib.contextmanager
def answered():
    """Says whether the library took the message."""
    try:
        yield
        print("sent", flush=True)
    except Exception as error:
        print(f"{type(error).__name__}: {error}".replace("\n", " "), flush=True)
