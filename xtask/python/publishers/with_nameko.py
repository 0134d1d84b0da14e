"""Publishes notifications with nameko's standalone dispatcher; the lobby runs with MQ_EXCHANGE_NAME=players.events."""
import os

from nameko.standalone.events import event_dispatcher

from notifications import answered, notifications

config = {"AMQP_URI": os.environ["AMQP_URL"]}
for headers, body in notifications():  # {"user-id": 42} and {"command": "notice", …}
    with answered():
        dispatch = event_dispatcher(config, headers=headers, mandatory=True)  # connections are pooled
        dispatch("players", "request.client.notify", body)  # always to the exchange `players.events`
