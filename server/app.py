"""The ServerApp, where Flower's bundler looks for it."""

from fedloge.server.server_app import app as server_app

app = server_app
