"""The server application behind the upload-reply of `real_client.ps1`: it answers with a file's SHA-256."""

import hashlib
from http.server import BaseHTTPRequestHandler, HTTPServer


class Answer(BaseHTTPRequestHandler):
    """Notification by value: the file is the body, what is answered is the reply."""

    def do_POST(self) -> None:
        digest, left = hashlib.sha256(), int(self.headers["Content-Length"])
        while left and (block := self.rfile.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
        reply = digest.hexdigest().upper().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)


HTTPServer(("127.0.0.1", 9000), Answer).serve_forever()
