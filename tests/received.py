"""A mail server and a web hook of the tests' own, and what they were sent."""

import email
import json
import socket
import threading
from email import policy
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from aiosmtpd.controller import Controller


class Received(list[str]):
    """What was sent to a mail server and a web server of the tests' own, as text."""

    def __init__(self) -> None:
        super().__init__()
        received = self

        class Hook(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append("slack: " + json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: Any) -> None:
                pass

        with socket.socket() as free:  # the controller wants to know its port beforehand
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.mail = Controller(self, hostname="127.0.0.1", port=port)
        self.mail.start()
        self.web = HTTPServer(("127.0.0.1", 0), Hook)
        threading.Thread(target=self.web.serve_forever, daemon=True).start()

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        message = email.message_from_bytes(envelope.content, policy=policy.default)
        body = message.get_body(("html", "plain"))
        self.append(f"mail: {message['subject']}\n{body.get_content() if body else ''}")
        return "250 OK"

    def connections(self) -> dict[str, str]:
        """Airflow's connections to them."""
        mail = {
            "conn_type": "smtp", "host": "127.0.0.1", "port": self.mail.port,
            "extra": {"disable_ssl": True, "disable_tls": True, "from_email": "gesso@example.org"},
        }  # fmt: skip
        hook = {"conn_type": "slackwebhook", "password": f"http://127.0.0.1:{self.web.server_port}/services/hook"}
        return {
            "AIRFLOW_CONN_SMTP_DEFAULT": json.dumps(mail),
            "AIRFLOW_CONN_SLACKWEBHOOK_DEFAULT": json.dumps(hook),
        }

    def close(self) -> None:
        self.mail.stop()
        self.web.shutdown()
