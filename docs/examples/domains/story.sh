#!/bin/sh
# Runs beside a lab of shop.yaml and outside.yaml: a name server answers, the checkout asks.
set -eu
records='--host-record=api.pay.example,10.77.0.7 --host-record=evil.example,10.77.0.9
         --host-record=mx.provider.example,10.77.0.8 --cname=eu.mail.example,mx.provider.example'
# shellcheck disable=SC2086
calico-k8s lab exec outside/dns -- dnsmasq --conf-file=/dev/null --pid-file= --user=root \
    --no-resolv --no-hosts --keep-in-foreground $records &
trap 'kill $!' EXIT
in_checkout="calico-k8s lab exec shop/checkout-0 -- python3 docs/examples/domains/ask.py"
until $in_checkout api.pay.example >/dev/null 2>&1; do sleep 0.1; done
$in_checkout api.pay.example eu.mail.example evil.example
