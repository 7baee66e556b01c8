"""A receiver of webhooks: verifies, answers 204, prints. Prove your own service with it first.

    pip install standardwebhooks            # or: export $(scripts/libraries)
    python3 receive.py [PORT] [KEY]
"""

import http.server
import sys

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 9000
KEY = sys.argv[2] if len(sys.argv) > 2 else "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            event = Webhook(KEY).verify(body, headers)
        except WebhookVerificationError as error:
            print("refused:", error, flush=True)
            return self.answer(401)
        # Deduplicate by webhook-id here, and work after the answer.
        print(headers["webhook-id"], event["type"], event["subject"], event["data"], flush=True)
        self.answer(204)

    def answer(self, status):
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Receiver).serve_forever()
