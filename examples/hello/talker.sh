#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# One line, one message: anything that prints can be a node.
for who in world river sea; do
    echo "hello, $who"
done | tidegate-pipe --send greeting
