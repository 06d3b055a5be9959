// Package apparmor knows which AppArmor profiles the kernel has, and loads the one that containers get by default.
//
// The kernel takes profiles in a compiled form that only apparmor_parser makes, which every distribution with AppArmor has; it is run once
// a boot, and again when our profile was unloaded by somebody (aa-remove-unknown does).
//
// What belongs elsewhere: which profile a container asks for (package spec), changing to it (package engine/native).
package apparmor
