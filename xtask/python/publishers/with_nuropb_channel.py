"""Publishes notifications on nuropb's channel: its own calls can set neither `user-id` nor the body."""
import asyncio
import json
import os

import pika
from nuropb.rmq_api import RMQAPI

from notifications import answered, notifications


async def main():
    api = RMQAPI(os.environ["AMQP_URL"], events_exchange="faf-lobby")
    await api.connect()
    for headers, body in notifications():  # {"user-id": 42} and {"command": "notice", …}
        with answered():
            api.transport._channel.basic_publish(  # without confirms, as all of nuropb's messages
                exchange=api.transport.events_exchange,
                routing_key="request.client.notify",
                body=json.dumps(body),
                properties=pika.BasicProperties(headers=headers, content_type="application/json", delivery_mode=2),
            )
    await api.disconnect()


asyncio.run(main())
