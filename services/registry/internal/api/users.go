package api

import (
	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
)

type userService struct {
	almanacv1.UnimplementedUserServiceServer
	*rooms
}
