"""The ClientApp, where Flower's bundler looks for it."""

from fedloge.client.client_app import app as client_app

app = client_app
