#!/usr/bin/env python3
"""Hears what happens to orders: prints each event of Overdue's, and acks it.

    pip install pika            # or: export $(scripts/libraries)
    OVERDUE_AMQP_URL=amqp://... python3 docs/examples/listen.py

The queue is durable, so what happens while nobody listens is kept. Delivery is at least once: an event that comes again has
the same id.
"""
import json
import os

import pika

QUEUE = "example.listener"

connection = pika.BlockingConnection(pika.URLParameters(os.environ["OVERDUE_AMQP_URL"]))
channel = connection.channel()
channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
channel.queue_bind(QUEUE, "overdue.events", "#")  # or order.closed, order.#, ...
channel.basic_qos(prefetch_count=100)
print("listening", flush=True)
for method, _properties, body in channel.consume(QUEUE):
    event = json.loads(body)
    print(event["time"], event["type"], event["subject"], json.dumps(event["data"]), flush=True)
    channel.basic_ack(method.delivery_tag)
