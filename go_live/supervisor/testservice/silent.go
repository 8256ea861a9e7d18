//go:build !notify

package main

func sayReady() {}
