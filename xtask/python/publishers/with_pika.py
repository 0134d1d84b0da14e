"""Publishes notifications with pika."""
import json
import os

import pika

from notifications import answered, notifications

connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
channel = connection.channel()
channel.confirm_delivery()
for headers, body in notifications():  # {"user-id": 42} and {"command": "notice", …}
    with answered():
        channel.basic_publish(
            exchange="faf-lobby",
            routing_key="request.client.notify",
            body=json.dumps(body),
            properties=pika.BasicProperties(headers=headers, content_type="application/json", delivery_mode=2),
            mandatory=True,  # raises UnroutableError where no lobby is bound
        )
connection.close()
