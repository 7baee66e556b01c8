#!/usr/bin/env python3
"""Keeps orders in a cache of your own, and drops one when an event says that something happened to it.

    pip install pika            # or: export $(scripts/libraries)
    OVERDUE_AMQP_URL=amqp://... python3 docs/examples/cache.py http://127.0.0.1:8080

Each line of its input is an order ID; it answers with the order's status, and whether it was kept or loaded. An event takes
some milliseconds to arrive, so what is kept may be that old: decide nothing about money by it.
"""
import json
import os
import sys
import threading
import time
import urllib.request

import pika

KEPT_FOR_S = 60  # bounds what a lost event costs


class OrderCache:
    def __init__(self, load):
        self.load, self.lock = load, threading.Lock()
        self.kept, self.loading, self.listening = {}, {}, False

    def get(self, order_id):
        with self.lock:
            at, order = self.kept.get(order_id, (0, None))
            if order is not None and time.monotonic() - at < KEPT_FOR_S:
                return order, "kept"
            # Taken away by whoever drops this order while it is being loaded: what is loaded may be older than the event.
            token = self.loading[order_id] = object()
        order = self.load(order_id)
        with self.lock:
            if self.loading.get(order_id) is token:
                del self.loading[order_id]
                if self.listening:
                    self.kept[order_id] = (time.monotonic(), order)
        return order, "loaded"

    def drop(self, order_id):
        with self.lock:
            self.kept.pop(order_id, None)
            self.loading.pop(order_id, None)

    def set_listening(self, listening):
        """What happens while nobody listens is not heard of: nothing is kept then."""
        with self.lock:
            self.listening = listening
            self.kept.clear()
            self.loading.clear()

    def listen(self, amqp_url):
        while True:
            try:
                channel = pika.BlockingConnection(pika.URLParameters(amqp_url)).channel()
                # A queue of this process alone, which goes with it.
                queue = channel.queue_declare("", exclusive=True).method.queue
                channel.queue_bind(queue, "overdue.events", "#")
                self.set_listening(True)
                print("listening", flush=True)
                for _method, _properties, body in channel.consume(queue, auto_ack=True):
                    order_id = json.loads(body)["subject"]
                    self.drop(order_id)
                    print("dropped", order_id, flush=True)
            except pika.exceptions.AMQPError:
                self.set_listening(False)
                time.sleep(1)


def main():
    base = sys.argv[1]

    def load(order_id):
        # A read replica may not have heard yet what the event tells.
        headers = {"Cache-Control": "no-cache"}
        if token := os.environ.get("OVERDUE_API_TOKEN"):
            headers["Authorization"] = f"Bearer {token}"
        with urllib.request.urlopen(urllib.request.Request(f"{base}/orders/{order_id}", headers=headers)) as answer:
            return json.load(answer)

    cache = OrderCache(load)
    threading.Thread(target=cache.listen, args=[os.environ["OVERDUE_AMQP_URL"]], daemon=True).start()
    for line in sys.stdin:
        order, how = cache.get(line.strip())
        print(order["status"], how, flush=True)


if __name__ == "__main__":
    main()
