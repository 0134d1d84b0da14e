"""Publishes notifications on a channel of Neon's connection: its own calls know neither headers nor JSON bodies."""
import json
import os

import pika
from neon_mq_connector.connector import MQConnector

from notifications import answered, notifications

broker = pika.URLParameters(os.environ["AMQP_URL"])
login = {"user": broker.credentials.username, "password": broker.credentials.password}
connector = MQConnector({"server": broker.host, "port": broker.port, "users": {"players": login}}, "players")
with connector.create_mq_connection(vhost=broker.virtual_host) as connection:
    channel = connection.channel()
    channel.confirm_delivery()
    for headers, body in notifications():  # {"user-id": 42} and {"command": "notice", …}
        with answered():
            channel.basic_publish(
                exchange="faf-lobby",
                routing_key="request.client.notify",
                body=json.dumps(body),
                properties=pika.BasicProperties(headers=headers, content_type="application/json", delivery_mode=2),
                mandatory=True,
            )
