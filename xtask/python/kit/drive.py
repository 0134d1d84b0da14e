"""Publishes what each line of standard input says, as a Python expression, with the publisher that is named, and answers
with the message id or the error. `asking(notification, …)` asks for receipts, which follow the message id."""
import asyncio
import base64
import importlib
import json
import os
import sys
from datetime import datetime
from decimal import Decimal

kit = importlib.import_module(sys.argv[1])
names = {**vars(kit), "b64": base64.b64decode, "datetime": datetime, "Decimal": Decimal}
names["asking"] = lambda notification, **options: (notification, options)
made = kit.Publisher(os.environ["AMQP_URL"], exchange=os.environ["EXCHANGE"])


def sending(publisher, line):
    said = eval(json.loads(line), names)
    if isinstance(said, tuple):
        return publisher.publish_with_receipts(said[0], **said[1])
    return publisher.publish(said)


def sent(published):
    message_id, receipts = published if isinstance(published, tuple) else (published, None)
    print(f"sent {message_id}" + ("" if receipts is None else f" {json.dumps(receipts)}"), flush=True)


def answer(error):
    print(f"{type(error).__name__}: {error}".replace("\n", " "), flush=True)


def publish():
    with made as publisher:
        for line in sys.stdin:
            try:
                sent(sending(publisher, line))
            except Exception as error:
                answer(error)


async def publish_on_a_loop():
    loop = asyncio.get_running_loop()
    async with made as publisher:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            try:
                sent(await sending(publisher, line))
            except Exception as error:
                answer(error)


if asyncio.iscoroutinefunction(kit.Publisher.publish):
    asyncio.run(publish_on_a_loop())
else:
    publish()
