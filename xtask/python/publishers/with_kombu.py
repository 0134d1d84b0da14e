"""Publishes notifications with kombu."""
import os

import kombu

from notifications import answered, notifications

with kombu.Connection(os.environ["AMQP_URL"], transport_options={"confirm_publish": True}) as connection:
    producer = connection.Producer(serializer="json")  # no compression: the body must stay JSON
    for headers, body in notifications():  # {"user-id": 42} and {"command": "notice", …}
        with answered():
            producer.publish(
                body,
                exchange="faf-lobby",
                routing_key="request.client.notify",
                headers=headers,
                delivery_mode=2,
                mandatory=True,
            )
