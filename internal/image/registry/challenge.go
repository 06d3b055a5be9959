package registry

import "strings"

// challenge is one demand for authentication, RFC 9110 §11.6.1. The scheme and the parameters' names are in lower case.
type challenge struct {
	scheme string
	params map[string]string
}

// parseChallenges reads the values of WWW-Authenticate. What cannot be read is left out.
func parseChallenges(headers []string) []challenge {
	var all []challenge
	for _, h := range headers {
		rest := h
		for {
			rest = strings.TrimLeft(rest, " \t,")
			scheme, after := token(rest)
			if scheme == "" {
				break
			}
			c := challenge{strings.ToLower(scheme), map[string]string{}}
			rest = c.parameters(after)
			all = append(all, c)
		}
	}
	return all
}

// parameters reads name=value, … and returns what is left: nothing, or the next challenge.
func (c challenge) parameters(s string) string {
	for {
		s = strings.TrimLeft(s, " \t,")
		name, after := token(s)
		after = strings.TrimLeft(after, " \t")
		if name == "" || !strings.HasPrefix(after, "=") {
			return s
		}
		value, rest, ok := parameterValue(strings.TrimLeft(after[1:], " \t"))
		if !ok {
			return ""
		}
		c.params[strings.ToLower(name)] = value
		s = rest
	}
}

func parameterValue(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		value, rest = token(s)
		return value, rest, value != ""
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			if i++; i == len(s) {
				return "", "", false
			}
		}
		b.WriteByte(s[i])
	}
	return "", "", false
}

// token reads a token's characters, RFC 9110 §5.6.2, and those of token68 that registries use unquoted.
func token(s string) (tok, rest string) {
	i := 0
	for i < len(s) && (s[i] >= '0' && s[i] <= '9' || s[i]|0x20 >= 'a' && s[i]|0x20 <= 'z' || strings.IndexByte("!#$%&'*+-.^_`|~/:", s[i]) >= 0) {
		i++
	}
	return s[:i], s[i:]
}
