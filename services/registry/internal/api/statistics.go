package api

import (
	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
)

type statisticsService struct {
	almanacv1.UnimplementedStatisticsServiceServer
	*rooms
}
