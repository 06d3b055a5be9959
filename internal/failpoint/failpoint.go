// Package failpoint lets tests make named places of the program fail: with an error, a delay, a panic, or the death of a process.
//
// A program built without the tag "failpoints" contains none of it: [Hit] is an empty function that the compiler removes. Built with it,
// [Hit] looks for a file named like the place below the directory given to [Arm]; a test writes it, and it fires once.
//
// Which places there are is not written down anywhere: a program with the tag names each place that it comes by in the file "seen" of that
// directory, so that a test first lets a life pass without faults and then plants one at every place it saw.
package failpoint

// Done is the end of the step that begins at a place: "run/cgroup" begins it, "run/cgroup.done" ends it.
func Done(place string) string { return place + ".done" }
