"""Tries Neon's own call. It declares the exchange anew, not durable, which the broker refuses; nothing is published."""
import os

import pika
from neon_mq_connector.connector import MQConnector

from notifications import answered, notifications

broker = pika.URLParameters(os.environ["AMQP_URL"])
login = {"user": broker.credentials.username, "password": broker.credentials.password}
connector = MQConnector({"server": broker.host, "port": broker.port, "users": {"players": login}}, "players")
for _, body in notifications():
    with answered():
        connector.send_message(
            body,
            vhost=broker.virtual_host,
            exchange="faf-lobby",
            queue="request.client.notify",
            exchange_type="topic",
        )
