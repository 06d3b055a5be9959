// Package selinux knows what the machine's SELinux policy says of containers.
//
// Labels are computed by package spec, which is pure; this package gives it what the policy's author chose for containers and asks the
// kernel whether a label means anything. Setting labels belongs to package engine/native.
package selinux
