#!/usr/bin/env python3
"""Arms payment timeouts from Python, past the database: publishes bare order IDs into a lane.

    publish.py [--lane 30m] amqp://user:password@host:port/vhost ORDER_ID...

Publish after the transaction that creates the order has committed. If this program dies in between, nobody
arms the order; the outbox table does not have that gap. Needs pika (pip install pika).
"""
import argparse
import sys

import pika


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lane", default="30m", help="how long the customer has to pay; one of the declared lanes")
    parser.add_argument("url")
    parser.add_argument("order_ids", nargs="+", metavar="ORDER_ID")
    arguments = parser.parse_args()

    connection = pika.BlockingConnection(pika.URLParameters(arguments.url))
    channel = connection.channel()
    channel.confirm_delivery()  # from now on basic_publish waits for the broker's confirm
    persistent = pika.BasicProperties(delivery_mode=2)
    for order_id in arguments.order_ids:
        # A lane that does not exist is no error here: the broker sets the message aside in overdue.v1.parked.
        channel.basic_publish(
            exchange="overdue.delay",
            routing_key=f"{arguments.lane}.payment",
            body=order_id.encode(),
            properties=persistent,
        )
    connection.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
