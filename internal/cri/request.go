package cri

import (
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"fermata/internal/errs"
)

// checkRequest refuses a request with a value that its enumeration does not have, in any member. It comes from a client that is newer, and to guess
// what it wants is no answer: a namespace mode that is taken for another is a hole. Fields that are unknown are another matter: protobuf's rule is
// that they may be left out.
func checkRequest(request any) error {
	m, ok := request.(proto.Message)
	if !ok {
		return nil
	}
	return checkEnums(m.ProtoReflect(), "")
}

func checkEnums(m protoreflect.Message, path string) (err error) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		of := f
		if f.IsMap() {
			of = f.MapValue()
		}
		if of.Kind() != protoreflect.EnumKind && of.Message() == nil {
			return true
		}
		name := path + string(f.Name())
		switch {
		case f.IsList():
			for i := range v.List().Len() {
				if err = checkMember(of, v.List().Get(i), fmt.Sprintf("%s[%d]", name, i)); err != nil {
					return false
				}
			}
		case f.IsMap():
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				err = checkMember(of, v, fmt.Sprintf("%s[%.80q]", name, k.String()))
				return err == nil
			})
		default:
			err = checkMember(of, v, name)
		}
		return err == nil
	})
	return err
}

func checkMember(f protoreflect.FieldDescriptor, v protoreflect.Value, name string) error {
	if f.Kind() != protoreflect.EnumKind {
		return checkEnums(v.Message(), name+".")
	}
	if f.Enum().Values().ByNumber(v.Enum()) == nil {
		return errs.New(errs.InvalidArgument, "%s: %s has no value %d", name, f.Enum().Name(), v.Enum())
	}
	return nil
}

// incoming is a stream whose requests are checked as those of other calls are.
type incoming struct{ grpc.ServerStream }

// RecvMsg implements grpc.ServerStream.
func (i incoming) RecvMsg(m any) error {
	if err := i.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return checkRequest(m)
}
