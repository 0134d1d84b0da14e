"""Publishes notifications with aio-pika, as the FAF lobby server's own services do."""
import asyncio
import json
import os

import aio_pika

from notifications import answered, notifications


async def main():
    async with await aio_pika.connect_robust(os.environ["AMQP_URL"]) as connection:
        channel = await connection.channel()  # with publisher confirms
        exchange = await channel.get_exchange("faf-lobby")
        for headers, body in notifications():  # {"user-id": 42} and {"command": "notice", …}
            with answered():
                message = aio_pika.Message(
                    json.dumps(body).encode(),
                    headers=headers,
                    content_type="application/json",
                    delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                )
                await exchange.publish(message, routing_key="request.client.notify", mandatory=True)


asyncio.run(main())
