#!/bin/sh
# Beside `lab run`: the shop's web is asked by somebody, asks its database, and the report says what would be.
calico-k8s lab exec monitoring/dashboard -- bash -c ': > /dev/tcp/10.128.0.4/8080' || exit
calico-k8s lab exec shop/web -- bash -c ': > /dev/tcp/10.128.16.3/5432' || exit
for second in $(seq 60); do # nodes tell what they have counted every 2 to 30 s
    sleep 1
    report=$(calico-k8s staged --port 5432) || exit
    case $report in
    *"would allow 1: shop/web → shop/db, tcp 5432: StagedNetworkPolicy shop/db"*) break ;;
    esac
done
echo "$report"
test "$second" -lt 60
