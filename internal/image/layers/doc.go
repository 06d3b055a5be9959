// Package layers unpacks image layers.
//
// A layer is foreign bytes, unpacked by root. So: everything happens by descriptor below one root; a name goes through openat2(2) and no component may be
// a symbolic link; ".." out of the root is refused; links are made, never followed; device nodes are only made; overlayfs's own attributes are never
// taken from an archive; entries, bytes, depth and holes are bounded by [Limits]. A layer that breaks a rule is an error of kind InvalidArgument and
// whatever it left is below the root, for the caller to remove.
//
// Two ways to unpack:
//
//   - [Unpack], the usual: alone, while it downloads, into an empty directory that becomes an overlayfs layer. Whiteouts turn into overlayfs's form.
//     A layer that only makes sense on top of others (a hard link to a file below, a path through a link) returns [ErrNeedsBase].
//   - [UnpackOnto]: from a file, onto the merged tree of the layers below, where links in parent paths are followed inside the root and whiteouts
//     remove. With an overlay mount as the root, its upper directory becomes the layer.
//
// A directory that an archive implies and does not list has to look as it does in the layers below. Unpack reports such directories; [Plan] finds which
// of an image's layers must be unpacked onto their base, and what a fix-up layer on top must hold ([Plan], [WriteFixup]).
//
// Fetching, digests of what is served and where layers are kept belong to packages registry and store.
package layers
