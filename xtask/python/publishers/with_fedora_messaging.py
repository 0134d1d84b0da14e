"""Publishes notifications with fedora-messaging."""
import os

from fedora_messaging import api, config

from notifications import answered, notifications

config.conf.load_config()
config.conf["amqp_url"] = os.environ["AMQP_URL"]
for headers, body in notifications():  # {"user-id": 42} and {"command": "notice", …}
    with answered():
        message = api.Message(topic="request.client.notify", headers=headers, body=body)
        api.publish(message, exchange="faf-lobby")  # waits for the confirm; topic_prefix must be empty
