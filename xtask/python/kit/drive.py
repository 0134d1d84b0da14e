"""Publishes what each line of standard input says, as a Python expression, with the publisher that is named, and answers
with the message id or the error."""
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
made = kit.Publisher(os.environ["AMQP_URL"], exchange=os.environ["EXCHANGE"])


def notification(line):
    return eval(json.loads(line), names)


def answer(error):
    print(f"{type(error).__name__}: {error}".replace("\n", " "), flush=True)


def publish():
    with made as publisher:
        for line in sys.stdin:
            try:
                print(f"sent {publisher.publish(notification(line))}", flush=True)
            except Exception as error:
                answer(error)


async def publish_on_a_loop():
    loop = asyncio.get_running_loop()
    async with made as publisher:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            try:
                print(f"sent {await publisher.publish(notification(line))}", flush=True)
            except Exception as error:
                answer(error)


if asyncio.iscoroutinefunction(kit.Publisher.publish):
    asyncio.run(publish_on_a_loop())
else:
    publish()
