# Untested: no image has been built from this file yet.
#
#   docker build -t claude-proxy .
#   docker run --rm --init -p 127.0.0.1:3456:3456 -e CLAUDE_CODE_OAUTH_TOKEN -e CLAUDE_PROXY_API_KEY=KEY claude-proxy
#
# The token is made by `claude setup-token` on a machine with a browser and given at run time: it belongs in no image.
# Inside the container the proxy is bound to every address, so it wants a key of your own making; publish the port on
# 127.0.0.1, as above. Add `--demo` at the end to try it without a login.
FROM python:3.12-slim

WORKDIR /opt/claude_proxy
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY claude_proxy ./claude_proxy
RUN pip install --no-cache-dir '.[cli]' && useradd --create-home claude

USER claude
WORKDIR /home/claude
ENV CLAUDE_PROXY_HOST=0.0.0.0
EXPOSE 3456
ENTRYPOINT ["claude-proxy"]
