"""A serializer for NDJSON, which Schemathesis does not have."""

import json

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def ndjson(_context, value):
    return json.dumps(value).encode() + b"\n"
