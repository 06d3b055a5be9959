package manifest

import (
	"errors"
	"math/big"
	"strings"
)

// suffixes of k8s.io/apimachinery/pkg/api/resource, as factors.
var suffixes = []struct {
	name   string
	factor *big.Rat
}{ // two letters before one, so that "Mi" is not taken for "M"
	{"Ki", power(2, 10)}, {"Mi", power(2, 20)}, {"Gi", power(2, 30)}, {"Ti", power(2, 40)}, {"Pi", power(2, 50)}, {"Ei", power(2, 60)},
	{"n", inverse(power(10, 9))}, {"u", inverse(power(10, 6))}, {"m", inverse(power(10, 3))},
	{"k", power(10, 3)}, {"M", power(10, 6)}, {"G", power(10, 9)}, {"T", power(10, 12)}, {"P", power(10, 15)}, {"E", power(10, 18)},
}

func power(base, exponent int64) *big.Rat {
	return new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(base), big.NewInt(exponent), nil))
}

func inverse(r *big.Rat) *big.Rat { return new(big.Rat).Inv(r) }

// maxQuantity bounds the text: nothing longer is a number anybody wrote.
const maxQuantity = 40

// parseQuantity returns s in thousandths, rounded up; negative ones and ones that do not fit are refused.
func parseQuantity(s string) (int64, error) {
	if len(s) == 0 || len(s) > maxQuantity {
		return 0, errors.New("is not a number with a suffix like m, k, M, Mi or Gi")
	}
	factor, digits := power(10, 0), s
	for _, suffix := range suffixes {
		if d, ok := strings.CutSuffix(s, suffix.name); ok {
			factor, digits = suffix.factor, d
			break
		}
	}
	mantissa, exponent := digits, int64(0)
	if i := strings.IndexAny(digits, "eE"); i >= 0 {
		var ok bool
		if mantissa, exponent, ok = scientific(digits, i); !ok || digits != s {
			return 0, errors.New("is not a number with a suffix like m, k, M, Mi or Gi")
		}
	}
	value, ok := new(big.Rat).SetString(mantissa)
	if !ok || strings.Trim(mantissa, "+-.0123456789") != "" {
		return 0, errors.New("is not a number with a suffix like m, k, M, Mi or Gi")
	}
	value.Mul(value, factor)
	if exponent < 0 {
		value.Quo(value, power(10, -exponent))
	} else {
		value.Mul(value, power(10, exponent))
	}
	return thousandths(value)
}

// scientific splits 12e3; the exponent has at most two digits.
func scientific(digits string, at int) (mantissa string, exponent int64, ok bool) {
	text := digits[at+1:]
	sign := int64(1)
	if strings.HasPrefix(text, "-") {
		sign = -1
	}
	text = strings.TrimLeft(text, "+-")
	if len(text) == 0 || len(text) > 2 {
		return "", 0, false
	}
	for _, c := range text {
		if c < '0' || c > '9' {
			return "", 0, false
		}
		exponent = exponent*10 + int64(c-'0')
	}
	return digits[:at], sign * exponent, true
}

func thousandths(value *big.Rat) (int64, error) {
	value.Mul(value, big.NewRat(1000, 1))
	if value.Sign() < 0 {
		return 0, errors.New("must not be negative")
	}
	whole, rest := new(big.Int).QuoRem(value.Num(), value.Denom(), new(big.Int))
	if rest.Sign() > 0 {
		whole.Add(whole, big.NewInt(1))
	}
	if !whole.IsInt64() {
		return 0, errors.New("is too large")
	}
	return whole.Int64(), nil
}
