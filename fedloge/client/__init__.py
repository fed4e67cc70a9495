"""The client's side: the ClientApp, training and evaluation, personal state on disk."""
