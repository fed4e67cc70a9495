"""What both sides derive from a config: data, partition, network, fingerprint."""
