package main

import (
	"crypto/rand"
	"fmt"

	"example.com/alim-example/alimclient"
	"google.golang.org/genproto/googleapis/rpc/code"
)

// codeName writes a code as the protocol does: codes.Code prints as Go's own names, such as DeadlineExceeded.
func codeName(failure *alimclient.Error) string {
	return code.Code(failure.Code).String()
}

func uuid() string {
	var bytes [16]byte
	rand.Read(bytes[:]) // never fails
	bytes[6] = bytes[6]&0x0f | 0x40
	bytes[8] = bytes[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", bytes[:4], bytes[4:6], bytes[6:8], bytes[8:10], bytes[10:])
}
