"""Publishes one notification and waits for the broker's confirm.

Needs pika (pip install pika) and, beside this file, a copy of publishers/python/notify_pika.py.
"""
import os

from notify_pika import Publisher, to_user

with Publisher(os.environ["AMQP_URL"]) as publisher:
    notice = {"command": "notice", "style": "info", "text": "Your friend came online"}
    message_id = publisher.publish(to_user(42, notice, expires=60))  # or broadcast({…})
print("confirmed", message_id)
