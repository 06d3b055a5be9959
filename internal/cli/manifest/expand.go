package manifest

import "strings"

// expand replaces $(NAME) by the variable's value; $$ is a dollar sign, and a name that is not known stays as it is written
// (Kubernetes, third_party/forked/golang/expansion).
func expand(s string, lookup func(string) (string, bool)) string {
	var out strings.Builder
	for {
		before, after, found := strings.Cut(s, "$")
		out.WriteString(before)
		if !found {
			return out.String()
		}
		switch {
		case strings.HasPrefix(after, "$"):
			out.WriteByte('$')
			s = after[1:]
			continue
		case strings.HasPrefix(after, "("):
			if name, rest, closed := strings.Cut(after[1:], ")"); closed {
				if value, known := lookup(name); known {
					out.WriteString(value)
				} else {
					out.WriteString("$(" + name + ")")
				}
				s = rest
				continue
			}
		}
		out.WriteByte('$')
		s = after
	}
}
