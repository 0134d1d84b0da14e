"""Publishes with nuropb's own call. It sets no header, so every event reaches everyone, inside nuropb's envelope."""
import asyncio
import os

from nuropb.rmq_api import RMQAPI

from notifications import answered, notifications


async def main():
    api = RMQAPI(os.environ["AMQP_URL"], events_exchange="faf-lobby")
    await api.connect()
    for _, body in notifications():
        with answered():
            api.publish_event("request.client.notify", body, context={})  # clients read it under `event`
    await api.disconnect()


asyncio.run(main())
