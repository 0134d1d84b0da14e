#!/bin/sh
# Puts the lobby's password into the definitions and becomes RabbitMQ. RabbitMQ itself reads no environment in them.
set -eu
password=${LOBBY_RABBITMQ_PASSWORD:-lobby}
case $password in
*[!A-Za-z0-9._~-]*)
    echo "LOBBY_RABBITMQ_PASSWORD may have letters, digits and . _ ~ - only, as it stands in a URL" >&2
    exit 64
    ;;
esac
sed "s/@LOBBY_RABBITMQ_PASSWORD@/$password/" /deploy/definitions.json >/tmp/definitions.json
exec docker-entrypoint.sh rabbitmq-server
