//go:build notify

package main

import "github.com/coreos/go-systemd/v22/daemon"

func sayReady() {
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		panic(err)
	}
}
