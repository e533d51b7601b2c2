"""The values everything else speaks in: addresses, resources, keys, and their stored form."""
