"""Publishes one notification and waits for the broker's confirm. Needs: pip install pika"""
import json
import os

import pika

connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
channel = connection.channel()
channel.confirm_delivery()
channel.basic_publish(
    exchange="faf-lobby",
    routing_key="request.client.notify",
    body=json.dumps({"command": "notice", "style": "info", "text": "Your friend came online"}),
    properties=pika.BasicProperties(
        headers={"user-id": 42},  # an int; never None, True or 42.0; no headers at all reach everyone
        content_type="application/json",
        delivery_mode=2,
    ),
    mandatory=True,  # raises UnroutableError where no lobby is bound
)
print("confirmed")
connection.close()
